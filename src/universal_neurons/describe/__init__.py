"""Say what neurons do: in which contexts they are active, and which tokens they read and write."""
