"""Which rows of the counter table are shown, whose they are, and which of their zeros count: for `counters.py`.

Made once for a set of entries and endpoints, and used until one of them changes: between two scrapes hardly one does.
Works on whole columns, because a node with 1000 interfaces has 54000 samples.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from exporter.calico.counters import ACCEPTED_BY_POLICY, DROPPED_BY_POLICY, TOTAL_PACKETS, UNKNOWN, CounterTable
from exporter.calico.hooks import TC_HOOKS, XDP, direction, hook_name
from exporter.node import endpoints
from exporter.node.endpoints import Endpoint, Endpoints

_CORE_SLOTS = frozenset({TOTAL_PACKETS, ACCEPTED_BY_POLICY, DROPPED_BY_POLICY})


class CounterRows:
    """The rows of a counter table by interface index and hook, and those that are a true zero until their first packet.

    `labels` are the endpoint labels of each row; `zeros`, bool of shape (rows, slots), says which slots are shown even
    when they are zero; `groups` holds the row numbers of tc hooks (True) and of others (False), where there are any;
    `unknown` are the interface indexes that nobody knows.
    """

    def __init__(self, table: CounterTable, known: Endpoints, zeros: str) -> None:
        self._made_from = (table.ifindex, table.hook, known, table.layout)
        keys = list(zip(table.ifindex.tolist(), table.hook.tolist(), strict=True))
        # Before v3.31 the program made its entry at the first packet of a hook: until then the count is 0, and
        # increase() must see the first denial.
        absent_is_zero = zeros != "none" and not table.layout.entries_made_by_felix
        keys += sorted(set(_tc_hooks_of_calicos(known)).difference(keys)) if absent_is_zero else []
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._order = np.array(order, np.intp)
        self._idle = len(keys) - len(table.ifindex)
        whose = [(known.of(keys[row][0]), keys[row][1]) for row in order]
        self.labels = [endpoint_labels(endpoint, hook) for endpoint, hook in whose]
        self.zeros = np.array([_shown_zeros(*one, table, zeros) for one in whose], bool)
        self.zeros = self.zeros.reshape(len(whose), len(table.layout.slots))
        at_tc = np.array([hook in TC_HOOKS for _, hook in whose], bool)
        self.groups = {tc: np.flatnonzero(at_tc == tc) for tc in (True, False) if (at_tc == tc).any()}
        self.unknown = {endpoint.ifindex for endpoint, _ in whose if endpoint.kind == endpoints.UNKNOWN}
        self._ifindex = np.array([endpoint.ifindex for endpoint, _ in whose], np.uint32)
        self._of_unknown = np.array([endpoint.kind == endpoints.UNKNOWN for endpoint, _ in whose], bool)

    def fit(self, table: CounterTable, known: Endpoints) -> bool:
        """Whether they are still right for this table and these endpoints."""
        ifindex, hook, endpoints_then, layout = self._made_from
        same_keys = np.array_equal(ifindex, table.ifindex) and np.array_equal(hook, table.hook)
        return known is endpoints_then and same_keys and layout == table.layout

    def sums_of(self, table: CounterTable) -> NDArray[np.uint64]:
        """The values of the rows, shape (rows, slots)."""
        zeros = np.zeros((self._idle, table.sums.shape[1]), np.uint64)
        return np.concatenate([table.sums, zeros])[self._order]

    def shown(self, sums: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which slots of which row have a sample, without those of unknown interfaces past the most that get a name."""
        shown: NDArray[np.bool_] = (sums != 0) | self.zeros
        if self.unknown:
            counting = np.unique(self._ifindex[self._of_unknown & (sums != 0).any(axis=1)])
            hidden = counting[endpoints.MOST_UNKNOWN :]
            shown[self._of_unknown & np.isin(self._ifindex, hidden)] = False
        return shown


def endpoint_labels(endpoint: Endpoint, hook: int) -> tuple[str, ...]:
    """The values of `ENDPOINT_LABELS` for this endpoint at this hook."""
    known = endpoint.kind != endpoints.UNKNOWN
    way = direction(hook, workload=endpoint.kind == endpoints.WORKLOAD) if known else ""
    return (endpoint.interface, hook_name(hook), way, endpoint.namespace, endpoint.pod)


def _tc_hooks_of_calicos(known: Endpoints) -> Iterator[tuple[int, int]]:
    for endpoint in known.by_index.values():
        if endpoint.state is not None and endpoint.kind != endpoints.UNMANAGED:
            yield from ((endpoint.ifindex, hook) for hook in TC_HOOKS)


def _shown_zeros(endpoint: Endpoint, hook: int, table: CounterTable, zeros: str) -> list[bool]:
    """Which slots of this row are shown even when they are zero, by slot number."""
    slots = table.layout.slots
    if zeros == "none" or endpoint.kind == endpoints.UNKNOWN or hook > XDP:
        return [False] * len(slots)
    # A host's interfaces are few, and where a node's own traffic is lost.
    if zeros == "all" or (endpoint.kind == endpoints.HOST and endpoint.state is not None):
        return [slot.category != UNKNOWN for slot in slots]
    core = endpoint.state is not None and hook in TC_HOOKS
    return [core and slot.number in _CORE_SLOTS for slot in slots]
