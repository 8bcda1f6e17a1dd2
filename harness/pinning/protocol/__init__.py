"""The loading protocol: its model, its schedules, and how they are played in a guest."""
