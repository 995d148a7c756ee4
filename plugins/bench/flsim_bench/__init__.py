"""flsim bench: backends compared on named workloads, each beside a bare reference of the same run."""
