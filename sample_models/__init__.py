"""Networks to try greg with; they are installed with it, so that states made from them load anywhere."""
