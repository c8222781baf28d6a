"""AllowedIPs against the rules, address by address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.devices.allowed_ips import allowed_ips
from lopower.devices.policy import Rule
from tests.support.registries import device, parse, server_facts

BLOCK = IPv4Network("172.20.0.0/24")
NETWORKS = st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
    lambda pair: IPv4Network((int(BLOCK[pair[0]]), pair[1]), strict=False)
)
RULES = st.lists(
    st.builds(
        lambda action, network, ports: Rule(action=action, network=network, ports=ports),
        st.sampled_from(["allow", "deny"]),
        NETWORKS,
        st.sampled_from([(), ((80, 80),)]),
    ),
    max_size=6,
)


def permits(rules: tuple[Rule, ...], address: IPv4Address) -> bool | None:
    """Whether any port may be reached by these rules; None: they do not say."""
    verdict: bool | None = None
    for rule in rules:
        if rule.network is not None and address in rule.network:
            if rule.denies and not rule.ports:
                return False
            if not rule.denies:
                verdict = True
    return verdict


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(RULES, RULES)
def test_exactly_what_the_rules_permit(own: list[Rule], everybody_s: list[Rule]) -> None:
    one = device("kitchen", 2, *map(str, own))
    networks = allowed_ips(one, server_facts(rules=tuple(everybody_s)))
    inside = [network for network in networks if isinstance(network, IPv4Network) and network.subnet_of(BLOCK)]
    listed = {address for network in inside for address in network}
    for number in range(256):
        address = BLOCK[number]
        verdict = permits(one.rules, address)
        if verdict is None:
            verdict = permits(tuple(everybody_s), address)
        assert (address in listed) == bool(verdict)


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.lists(st.sampled_from(["lan", "internet", "10.0.0.0/8", "deny 10.64.0.0/10", "[fd00::/8]:80"]), max_size=5))
def test_networks_never_overlap(rules: list[str]) -> None:
    facts = server_facts(lan=[IPv4Network("192.168.1.0/24")], tailnet=[IPv4Network("100.64.0.0/10")])
    networks = allowed_ips(device("kitchen", 2, *map(str, parse(*rules))), facts)
    for index, network in enumerate(networks):
        assert not any(network.overlaps(other) for other in networks[index + 1 :] if other.version == network.version)
