"""The replicated state: commands in, decisions out. Pure; `machine.Machine` is what others use."""
