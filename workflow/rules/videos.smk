"""Videos -> clip stores, one per dataset.

Inputs: config/dataset, archives or files in data/<dataset>, or a generator of synthetic videos.
Outputs: results/<scale>/videos/<dataset>/videos.json, results/<scale>/clips/<dataset>/store.json.
"""


rule download:
    """Download and unpack a dataset in data/, or print how to get it by hand."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
    output:
        touch(f"{VIDEOS}/downloaded"),
    log:
        f"{VIDEOS}/download.txt",
    shell:
        "cwm download {wildcards.dataset:q} {input.config:q} 2>&1 | tee {log:q}"


rule collect:
    """List the clips of a dataset; generate a synthetic dataset first."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        downloaded=lambda w: ([] if STANDINS or w.dataset == "videos" else f"{VIDEOS}/downloaded"),
    output:
        f"{VIDEOS}/videos.json",
    log:
        f"{VIDEOS}/log.txt",
    benchmark:
        f"{VIDEOS}/benchmark.tsv"
    threads: 1  # small jobs fill the cores best; for one large dataset: --set-threads collect=8
    params:
        out=VIDEOS,
        folder=own_videos,
        files=own_files,
    shell:
        "cwm collect {wildcards.dataset:q} {input.config:q} {params.folder} --cores {threads}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule decode:
    """Decode a part of the clips into frames; frames already stored are kept."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        videos=f"{VIDEOS}/videos.json",
    output:
        f"{PART}/part.parquet",
    log:
        f"{PART}/log.txt",
    benchmark:
        f"{PART}/benchmark.tsv"
    threads: 1
    params:
        out=PART,
        part=lambda w: int(w.part),
    shell:
        "cwm decode {wildcards.dataset:q} {input.config:q} --videos {input.videos:q}"
        " --part {params.part:q} --cores {threads} --out {params.out:q} 2>&1 | tee {log:q}"


rule clips:
    """Build the clip store of a dataset, and list the files that cannot be decoded."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        videos=f"{VIDEOS}/videos.json",
        parts=parts_of,
    output:
        f"{CLIPS}/store.json",
        f"{CLIPS}/contact.png",
    log:
        f"{CLIPS}/log.txt",
    wildcard_constraints:
        dataset=rf"(?!(?:{WITHOUT_VIDEOS})/)[a-z0-9-]+",
    params:
        out=CLIPS,
    shell:
        "cwm clips {wildcards.dataset:q} {input.config:q} --videos {input.videos:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule first_parts:
    """Build a store of the first parts; training on it starts while the others are decoded."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        videos=f"{VIDEOS}/videos.json",
        parts=lambda w: parts_of(w, int(w.parts)),
    output:
        f"{FIRST}/store.json",
        f"{FIRST}/contact.png",
    log:
        f"{FIRST}/log.txt",
    params:
        out=FIRST,
        decoded=CLIPS,
        numbers=lambda w: str([*range(int(w.parts))]),
    shell:
        "cwm clips {wildcards.dataset:q} {input.config:q} --videos {input.videos:q}"
        " --decoded {params.decoded:q} --set dataset.only_parts={params.numbers:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule import_episodes:
    """Build the store of recorded episodes, with actions and rewards."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        generated=generated,
    output:
        f"{CLIPS}/store.json",
        f"{CLIPS}/contact.png",
    log:
        f"{CLIPS}/log.txt",
    benchmark:
        f"{CLIPS}/benchmark.tsv"
    wildcard_constraints:
        dataset="|".join(RECORDED),
    params:
        out=CLIPS,
        source=recording,
        files=lambda w: listing_hash(recording(w)) if not generated(w) else "",
    shell:
        "cwm import {params.source:q} {input.config:q} --dataset {wildcards.dataset:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule mix:
    """Build the clip store of a mixture, or of a part of a dataset, from its members' stores."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        stores=stores_of,
    output:
        f"{CLIPS}/store.json",
        f"{CLIPS}/contact.png",
    log:
        f"{CLIPS}/log.txt",
    wildcard_constraints:
        dataset="|".join(MIXTURES),
    params:
        out=CLIPS,
        stores=lambda w, input: [f"--store {store}" for store in input.stores],
    shell:
        "cwm clips {wildcards.dataset:q} {input.config:q} {params.stores}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
