"""Clients that request the page again as soon as it was answered, as a program of its own:
python page_clients.py PORT CONNECTIONS QUERY. In the query, %d is the number of the connection.

In the process of a test they would delay what it measures: of its threads one at a time runs.
"""

import selectors
import socket
import sys


def main(port, connections, query):
    selector = selectors.DefaultSelector()
    for number in range(connections):
        target = query.replace("%d", str(number))
        client = socket.create_connection(("127.0.0.1", port))
        selector.register(client, selectors.EVENT_READ, [f"GET /{target} HTTP/1.1\r\nHost: node\r\n\r\n".encode(), b""])
        client.sendall(selector.get_key(client).data[0])
    print("all are there", flush=True)  # noqa: T201  read by the test
    while True:
        for key, _ in selector.select():
            request, said = key.data
            key.data[1] = said = said + key.fileobj.recv(1 << 16)
            head, _, body = said.partition(b"\r\n\r\n")
            if len(body) == int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or -1):
                key.data[1] = b""
                key.fileobj.sendall(request)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
