"""Supervisors: the rules of OTP as a pure core, and the actor that follows them."""
