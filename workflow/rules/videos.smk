"""Videos -> clips. Reads config/dataset; makes videos.json and store.json per dataset."""


rule videos:
    """List the videos of a dataset, making them first if they are a stand-in."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
    output:
        f"{VIDEOS}/videos.json",
    log:
        f"{VIDEOS}/log.txt",
    benchmark:
        f"{VIDEOS}/benchmark.tsv"
    threads: 2
    params:
        out=VIDEOS,
    shell:
        "cwm videos {wildcards.dataset} {input.config} --cores {threads} --out {params.out}"
        " 2>&1 | tee {log}"


rule clips:
    """Decode videos into frames that training reads by offset; list what cannot be decoded."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml"],
        videos=f"{VIDEOS}/videos.json",
    output:
        f"{CLIPS}/store.json",
    log:
        f"{CLIPS}/log.txt",
    benchmark:
        f"{CLIPS}/benchmark.tsv"
    threads: 2
    params:
        out=CLIPS,
    shell:
        "cwm clips {wildcards.dataset} {input.config} --videos {input.videos}"
        " --cores {threads} --out {params.out} 2>&1 | tee {log}"
