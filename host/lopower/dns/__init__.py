"""The devices' DNS server: local names, tailnet names, and everything else from the resolvers around."""
