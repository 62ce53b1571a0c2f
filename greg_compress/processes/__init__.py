"""One command in several processes: who is who, how a signal reaches all of them, and how they end together."""
