"""Where the devices' flows meet the network: who may reach what, dialling, and moving bytes."""
