"""How ``stories`` was made: programs above all packages; nothing imports them."""
