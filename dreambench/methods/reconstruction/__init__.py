"""Methods that build the subject's shape from its photos, to show it from where no photo was taken."""
