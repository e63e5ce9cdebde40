"""The outflow: the oplog to WebSocket subscribers, machines and browsers."""
