"""Who the devices are: names, keys, addresses and rules, the database that keeps them, and their configurations."""
