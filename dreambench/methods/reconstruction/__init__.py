"""Methods that reconstruct the subject in 3-D, to show it from where no photo was taken."""
