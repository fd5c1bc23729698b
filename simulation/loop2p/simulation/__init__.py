"""Stand-ins for mouse, microscope and microcontroller, at the hardware's own interfaces."""
