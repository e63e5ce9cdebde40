"""django-cqrs over RabbitMQ, as a peer. All but ``peer`` runs in an environment of its own."""
