from exporter.calico.endpoint_status import EndpointStatus
from exporter.node import endpoint_status
from exporter.node.endpoint_status import LocalPods, pods_of
from exporter.node.files import Folder

CLIENT = b'{"ifaceName":"calibf331a988cf","mac":"5e:70:53:22:8e:f3","ipv4Nets":["10.65.0.2/32"],"ipv6Nets":[]}'


def folder(problems=(), **files):
    names = {"client": "k8s ns-a%2Fclient eth0", "server": "k8s ns-b%2Fserver eth0", "cut": "k8s ns-c%2Fcut eth0"}
    return Folder(present=True, files={names.get(name, name): text for name, text in files.items()}, problems=problems)


def test_each_file_is_a_pod():
    server = CLIENT.replace(b"calibf331a988cf", b"cali34769d6a557")
    expected = (
        EndpointStatus("calibf331a988cf", "ns-a", "client", ("10.65.0.2",)),
        EndpointStatus("cali34769d6a557", "ns-b", "server", ("10.65.0.2",)),
    )
    assert LocalPods(expected, ()) == pods_of(folder(client=CLIENT, server=server))


def test_no_folder_is_no_pods_and_no_problem():
    assert LocalPods((), ()) == pods_of(Folder(present=False, files={}, problems=()))


def test_a_file_that_says_nothing_usable_is_a_sentence_and_hides_no_other():
    found = pods_of(folder(cut=CLIENT[:20], client=CLIENT, odd=CLIENT))
    assert ["client"] == [pod.pod for pod in found.pods]
    assert 2 == len(found.problems)
    assert "'k8s ns-c%2Fcut eth0'" in found.problems[0]
    assert "'odd'" in found.problems[1]


def test_problems_of_the_folder_come_first():
    found = pods_of(folder(problems=("x could not be read",), cut=b""))
    assert "x could not be read" == found.problems[0]
    assert 2 == len(found.problems)


def test_bytes_that_are_not_utf_8_are_no_failure():
    found = pods_of(folder(client=CLIENT.replace(b"5e:70", b"\xff\xfe"), cut=b"\xff\xfe"))
    assert ["client"] == [pod.pod for pod in found.pods]
    assert 1 == len(found.problems)


def test_a_workload_of_another_orchestrator_has_no_pod_name():
    odd = folder(**{"openstack vm%2F1 eth0": CLIENT})
    assert (EndpointStatus("calibf331a988cf", "", "", ("10.65.0.2",)),) == pods_of(odd).pods


def test_a_file_is_parsed_again_only_when_it_changed_even_one_that_says_nothing_usable(monkeypatch):
    parse, parsed = endpoint_status.parse_endpoint_status, []
    monkeypatch.setattr(
        endpoint_status, "parse_endpoint_status", lambda *file: (parsed.append(file[0]), parse(*file))[1]
    )
    found = pods_of(folder(client=CLIENT, cut=b"{"))
    assert pods_of(folder(client=CLIENT, cut=b"{"), found) is found
    assert 2 == len(parsed)
    healed = pods_of(folder(client=CLIENT, cut=CLIENT), found)
    assert (3, 2, ()) == (len(parsed), len(healed.pods), healed.problems)
