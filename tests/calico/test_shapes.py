import pytest

from exporter.calico import LayoutError
from exporter.calico.pins import parse_pins
from exporter.calico.shapes import check_shape
from tests.recorded import NAMES, law_of_recordings
from tests.service_tables import MAPS


@law_of_recordings(NAMES)
def every_map_has_the_shape_of_its_name(recording):
    for pin in parse_pins(recording.bundle.pin_names()):
        info = recording.bundle.map_info(pin.name)
        check_shape(pin.datum, pin.name, info.type, info.key_size, info.value_size)


@pytest.mark.parametrize("name", MAPS)
def test_the_service_maps_of_a_real_node_have_the_shapes_of_their_names(name):
    (pin,) = parse_pins([name])
    check_shape(pin.datum, name, *(MAPS[name][key] for key in ("type", "key_size", "value_size")))


@pytest.mark.parametrize(
    ("datum", "map_type", "key_size", "value_size"),
    [
        ("counters", "percpu_hash", 8, 8),
        ("counters", "lru_percpu_hash", 8, 8 * 40),
        ("rules", "percpu_hash", 8, 8),
        ("iface", "hash", 4, 20),
        ("iface", "hash", 4, 64),
        ("programs", "prog_array", 4, 4),
        ("IPv4 IP-set", "lpm_trie", 20, 4),
        ("IPv6 IP-set", "lpm_trie", 32, 4),
        ("IPv6 NAT frontend", "lpm_trie", 40, 20),
        ("IPv6 NAT backend", "hash", 8, 20),
        ("IPv6 NAT affinity", "lru_hash", 40, 32),
        ("IPv6 route", "lpm_trie", 20, 20),
        ("IPv4 connection-tracking", "hash", 16, 64),
        ("IPv4 connection-tracking", "hash", 16, 88),
        ("IPv4 connection-tracking", "lru_hash", 16, 88),
        ("IPv6 connection-tracking", "lru_hash", 40, 128),
    ],
)
def test_what_a_release_of_calico_can_have_is_taken(datum, map_type, key_size, value_size):
    check_shape(datum, "pin", map_type, key_size, value_size)


@pytest.mark.parametrize(
    ("datum", "map_type", "key_size", "value_size"),
    [
        ("counters", "hash", 8, 216),
        ("counters", "percpu_array", 4, 216),
        ("counters", "percpu_hash", 4, 216),
        ("counters", "percpu_hash", 8, 0),
        ("counters", "percpu_hash", 8, 217),
        ("counters", "type_27", 0, 0),
        ("rules", "percpu_hash", 8, 4),
        ("rules", "percpu_hash", 16, 8),
        ("iface", "percpu_hash", 4, 40),
        ("iface", "hash", 8, 52),
        ("iface", "hash", 4, 19),
        ("programs", "array", 4, 4),
        ("programs", "prog_array", 4, 8),
        ("IPv4 IP-set", "lpm_trie", 32, 4),
        ("IPv6 IP-set", "lpm_trie", 20, 4),
        ("IPv4 IP-set", "hash", 20, 4),
        ("IPv4 NAT frontend", "hash", 16, 20),
        ("IPv4 NAT backend", "hash", 8, 20),
        ("IPv6 NAT affinity", "lru_hash", 40, 28),
        ("IPv4 route", "lpm_trie", 20, 20),
        ("IPv4 connection-tracking", "lru_hash", 16, 63),
        ("IPv6 connection-tracking", "lru_hash", 16, 128),
    ],
)
def test_another_map_is_refused_in_one_sentence(datum, map_type, key_size, value_size):
    with pytest.raises(LayoutError) as caught:
        check_shape(datum, "cali_x6", map_type, key_size, value_size)
    assert str(caught.value) == (
        f"cali_x6 is a map of type {map_type} with keys of {key_size} and values of {value_size} bytes, "
        f"which cannot be Calico's {datum} map: find out which program has pinned it there; "
        "if it is Calico, send a bundle to the developers"
    )
