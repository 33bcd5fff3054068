// The search runs in a worker, which browsers do not start from a file. On pages opened from the file
// system, load its script in an empty frame instead.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(address) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => this.onmessage?.({ data });
      const script = inner.document.createElement("script");
      script.src = new URL(address, location).href;
      this.loaded = new Promise((resolve) => (script.onload = resolve));
      inner.document.head.append(script);
    }

    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow?.onmessage({ data }));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
