package client

// Socket returns the path that New was called with, for OpenResume; "" for a client that can only resume.
func (c *Client) Socket() string { return c.socket }
