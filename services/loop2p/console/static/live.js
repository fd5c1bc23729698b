// The live connection: what the console sends, by kind. It comes back by itself; meanwhile the page says that it is gone.
const QUIET_MS = 2000;

export function live(handlers, connected) {
  let last = 0;
  function open() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({data}) => {
      last = performance.now();
      if (typeof data === "string") {
        const message = JSON.parse(data);
        handlers[message.kind]?.(message.value ?? message);
      } else {
        const [kind, plane] = new Uint8Array(data, 0, 2);
        handlers.picture(kind, plane, new Blob([new Uint8Array(data, 2)], {type: "image/jpeg"}));
      }
    };
    socket.onopen = () => { handlers.opened(); };
    socket.onclose = () => { last = 0; setTimeout(open, 1000); };
  }
  setInterval(() => connected(last > 0 && performance.now() - last < QUIET_MS), 250);
  open();
}
