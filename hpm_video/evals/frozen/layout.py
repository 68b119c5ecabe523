"""Describe the layout of a feature file: for the help of `hpm-video features`, and for the key in the file."""

LAYOUT = """The file holds one row for each clip, R in all, a video's rows one after the other:

  features  [R, ...]  fp32 (tokens: fp16); of a clip, by --pool:
                      mean [D], space [t, D], motion [t, D], tokens [t, h, w, D], cls [D]
  times_s   [R, t]    seconds from the video's first frame to the middle of each time step of the features,
                      that is the mean time of its frames; mean and cls: [R, 1], the middle of the clip
  video     [R]       number of the video in the metadata's list
  metadata            JSON: videos, unreadable (path, reason), pooling, windows, weights, settings of the clips
                      (.npz: an entry of that name; .safetensors: under "hpm_video" in the metadata of the file)

t, h, w: time steps, rows and columns of the model's token grid; D: its width.
Without --windows there is one clip for each video, by the run's own rule (data.sampling). With it, windows of
data.num_frames frames, data.stride frames from one to the next, start every --stride-s seconds (if not given: one ends
where the next begins) as long as they fit; a video shorter than a window gives one, with its last frame repeated."""
