"""How the embedded model is made: data, codec, language model, ear, evaluation. Run from a checkout; not installed.

Each step is a command, `python -m engine.pocket.recipe.STEP --work DIR`, with --help; in this order:

    generate clips, callers, strangers, agent       the agent's voice, and callers
    train_codec encoder                             what is heard becomes tokens; from then on they are final
    generate stage1, stage2, strays, asides, probe  calls, and moments of calls
    generate talk                                   callers who talk on, for the ear
    encode                                          calls as tokens
    train_codec decoder                             tokens become the agent's voice
    train_lm, train_ear                             what is answered, and what the caller said
    export, evaluate                                the checkpoint, and the table about it

`adopt` begins a work folder where shipped weights ended, and `recover` keeps their voice in it. `pack` takes some of
the callers to a machine without their synthesisers; `unpack` stands there for `generate callers`.
`train_codec tune` lets an encoder whose tokens are in use hear more voices; what callers say is then encoded anew.
`generate actors` brings it people who were recorded; where they lie, strays, talk and calls have some of them, too.
Those that take long stop after --minutes and go on when called again. `nano` does all of it, small, in a minute.
"""
