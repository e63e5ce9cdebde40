"""Runs with django-cqrs's interpreter: prints its versions, and that of RabbitMQ."""

from __future__ import annotations

import json
from importlib.metadata import version


def main() -> None:
    import pika

    with pika.BlockingConnection(pika.ConnectionParameters(host="127.0.0.1")) as connection:
        broker = connection._impl.server_properties["version"]
    told = {"django-cqrs": version("django-cqrs"), "its Django": version("Django"), "RabbitMQ": broker}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
