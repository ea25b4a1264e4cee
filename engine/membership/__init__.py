"""Membership: scarce numbers, minted once per receipt, and what a member does with one."""
