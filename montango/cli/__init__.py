"""The command line ``montango``; its commands import what they need when they run."""
