"""WireGuard (whitepaper https://www.wireguard.com/papers/wireguard.pdf): both roles, as a core without any I/O.

`interface.Interface` is the way in. What it is made of: `noise` and `handshake` (keys), `cookie`, `ratelimit` and
`admission` (denial of service), `negotiation` (handshakes in both roles), `keypair` and `replay` (sessions),
`opening`, `inner` and `sealing` (packets), `allowed_ips`, `peer`, `timers`, `events`, `config`.
"""
