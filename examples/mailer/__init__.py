"""Newsletters of many tenants over one mail server that takes so many mails a second."""
