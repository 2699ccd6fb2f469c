"""The customer of the demonstration, for the tests of rotations."""

from sandbox.demo.customer import DAY_SECONDS, HANDS_OFF, NOT_ACCEPTING, PATIENCE_SECONDS, ROOT, Customer, Inbox

__all__ = ["DAY_SECONDS", "HANDS_OFF", "NOT_ACCEPTING", "PATIENCE_SECONDS", "ROOT", "Customer", "Inbox"]
