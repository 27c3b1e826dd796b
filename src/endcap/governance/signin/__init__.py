"""How people sign in to pages and out again: by a provider of OpenID Connect, and what of a sign-in stands afterwards, sessions that a cookie opens.

Providers, the people at them who are bound to users here, the check of what a provider says of somebody, and page sessions live here. Passwords,
tokens, groups and roles do not (``endcap.governance``), nor do pages, cookies and addresses of requests (``endcap.faces.http.pages``).
"""
