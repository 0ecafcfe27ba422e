"""Pictures of motion: a camera that follows, skeletons drawn on a floor, frames that play, film strips."""
