"""The version of lmx, where both the face and the rooms can read it."""

VERSION = "0.1.0"
