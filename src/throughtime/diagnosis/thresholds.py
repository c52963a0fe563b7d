"""Where a number becomes a finding: every threshold of every rule, with its reason."""

SHARE = 0.01  # of a gradient: under 1% it drowns in the noise of a batch; the horizon is defined by it

GROWS = 1.0  # log10: ten times its size at some lag; one ordinary clipping threshold still tames that
EXPLODES = 3.0  # log10: a thousand times; an update follows one direction of one sequence and nothing else
RECENT = 100  # updates that say what size of gradient is usual at the moment
SPIKE = 100.0  # a gradient norm over the recent median: a cliff was met, as in Pascanu et al. 2013, figure 6

SATURATED = 0.5  # share of units and steps: most of them have under a tenth of the slope they could have

JUDGED = 20  # updates: fewer say nothing about how often clipping acts
NEARLY_ALWAYS = 0.9  # share of updates clipped: the threshold sets the length of every step
NEW_THRESHOLD = 90  # percentile of the norms seen: one update in ten is a safety net at work

TOO_LONG = 4  # a window of so many times the reach that is needed spends most of its backward pass on nothing
ROOM = 2  # the window advised instead: twice the reach, because the reach may grow while training

LEFT_OUT = 0.1  # of a weight's gradient: more than a truncation should change of its length or direction

LEARNED = 0.5  # of the distance between the obvious guess and a perfect score: it uses the sequence, whatever else
BETTER = 0.05  # of the baseline's error: less could be luck, or a better estimate of the same guess
SPREAD = 2.0  # standard errors of an accuracy: 95% of lucky guesses lie within

PADDED = 3  # steps at the end with one and the same input: fewer may be chance
DEAD = 0.9  # share of units and steps at which a relu puts out nothing and passes nothing: few units are left to learn
SHUT = 0.2  # a memory gate that opens less on average has a memory of under one step
