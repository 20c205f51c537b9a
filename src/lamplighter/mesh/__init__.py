"""The Nebula mesh: authorities, certificates, configurations, rotation. Not responsible for running Nebula, which is the system's."""
