"""What lies in a run, score or record folder: manifest, plan, image set, results."""
