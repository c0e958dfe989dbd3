"""The main job: methods on a protocol, from their names to a report; and external images alike."""
