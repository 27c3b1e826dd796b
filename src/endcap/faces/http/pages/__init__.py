"""Pages for people: sign-in, what comes back from a provider, sign-out, and who one is. Server-rendered, without scripts.

How a session begins and ends is the business of ``endcap.governance.signin``; here are cookies, forms and HTML.
"""
