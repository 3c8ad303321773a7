"""The pure half of smartproxy: state machines that never touch a socket, clock or event loop."""
