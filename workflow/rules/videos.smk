"""Videos -> clips. Reads config/dataset; makes videos.jsonl and store.json per dataset."""


rule download:
    """Get the files of a dataset and unpack them in data/, or say how a person does."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
    output:
        touch(f"{VIDEOS}/downloaded"),
    log:
        f"{VIDEOS}/download.txt",
    shell:
        "cwm download {wildcards.dataset:q} {input.config:q} 2>&1 | tee {log:q}"


rule collect:
    """List the clips of a dataset, making them first if they are a stand-in."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        downloaded=[] if STANDINS else f"{VIDEOS}/downloaded",
    output:
        f"{VIDEOS}/videos.jsonl",
    log:
        f"{VIDEOS}/log.txt",
    benchmark:
        f"{VIDEOS}/benchmark.tsv"
    threads: 1  # a job of two seldom finds both free; more for one dataset: --set-threads collect=8
    params:
        out=VIDEOS,
    shell:
        "cwm collect {wildcards.dataset:q} {input.config:q} --cores {threads} --out {params.out:q}"
        " 2>&1 | tee {log:q}"


rule decode:
    """Decode a part of the clips into frames; what is stored already stays."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        videos=f"{VIDEOS}/videos.jsonl",
    output:
        f"{PART}/part.jsonl",
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
    """Gather the parts to frames that training reads by offset; list what cannot be decoded."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        videos=f"{VIDEOS}/videos.jsonl",
        parts=parts_of,
    output:
        f"{CLIPS}/store.json",
        f"{CLIPS}/contact.png",
    log:
        f"{CLIPS}/log.txt",
    wildcard_constraints:
        dataset=not_any(MADE_OF_OTHERS),
    params:
        out=CLIPS,
    shell:
        "cwm clips {wildcards.dataset:q} {input.config:q} --videos {input.videos:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule mix:
    """A store of the clips of other datasets: a mixture, or a part of one."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        stores=lambda w: expand(f"{CLIPS}/store.json", dataset=MADE_OF_OTHERS[w.dataset]),
    output:
        f"{CLIPS}/store.json",
        f"{CLIPS}/contact.png",
    log:
        f"{CLIPS}/log.txt",
    wildcard_constraints:
        dataset="|".join(MADE_OF_OTHERS),
    params:
        out=CLIPS,
        stores=lambda w, input: [f"--store {store}" for store in input.stores],
    shell:
        "cwm mix {wildcards.dataset:q} {input.config:q} {params.stores}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
