"""What runs inside a rank: sees collectives, writes the ring; never fails the job."""
