"""The same bytes through this project's bus and through others': who carries them, and how long it takes."""
