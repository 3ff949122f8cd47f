"""Run models over tokens and keep what their neurons do."""
