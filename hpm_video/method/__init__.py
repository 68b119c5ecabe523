"""The method: masks chosen by predicted difficulty (Hard Patches Mining, arXiv 2304.05919 and 2312.13714).

For readers who know MAE (arXiv 2111.06377). MAE hides random patches, encodes the visible ones, and decodes the hidden ones.
HPM keeps all of that and adds two things: the model predicts how hard each patch is to reconstruct, and the mask hides the
hard ones. One training step (`PretrainStep.forward_with` in step.py):

1. Difficulty: a number for each *unit* of each clip, [B, U]; larger is harder. A unit is the tokens that are masked together,
   by default a *tube*: one place over all time. HPM runs the *teacher*, an EMA of the student (teacher.py). The default of
   this project, `mask.difficulty=memory`, remembers the losses of earlier visits of the clip instead (difficulty/memory.py).
2. Mask: mask.ratio of the units are hidden, `num_hard` of them by difficulty, the others at random (masking/strategies.py).
   The share of hard units grows over the run (schedules.py): at first, nothing is known about difficulty.
   With mask.sharpness below 0, the default, "hard" is reversed: the easy units are hidden first.
3. Forward pass: the encoder sees the visible tokens alone, as in MAE. The pixel decoder reconstructs hidden tokens: all of
   them, or the part that masking/decoding.py chooses. If the teacher gives the difficulty, a second small decoder, the *loss
   predictor*, predicts the reconstruction loss of each of these tokens (models/student.py).
4. Losses (objectives.py): the mean squared error of MAE, plus a *ranking loss* that trains the loss predictor. For each pair
   of tokens it asks only which of the two has the larger reconstruction loss.
5. After the optimizer's update, the teacher's weights move towards the student's, or the new losses are remembered.

| in MAE | here | in |
|---|---|---|
| random masking | a mask strategy (mask.mode) | masking/strategies.py |
| patch | token: a tubelet of pixels over model.tubelet frames | models/tokens.py |
| normalised pixels | a target (objective.target): pixels, or features | targets/ |
| - | a source of difficulty (mask.difficulty) | difficulty/ |

Random numbers are drawn for the whole global batch from (seed, step), so results do not depend on how the batch is split over
ranks. The shape letters (B, U, N, ...) are explained in hpm_video/types.py.
"""
