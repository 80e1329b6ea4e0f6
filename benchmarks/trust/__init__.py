"""What shows that nothing gets in, nothing is lost and nothing grows: fuzzing, faults, a soak."""
