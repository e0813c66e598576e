/* The tab "Class": a stage that shows somebody else's run, fed by a stream of messages. One can only look. */
(function (KVW) {
  "use strict";
  const role = KVW.role;

  KVW.mountWatch = function (element, props) {
    KVW.setConstants(props.constants);
    const box = role(element, "watch-stage");
    const said = (text) => KVW.setText(role(element, "watch-said"), text);
    const leave = role(element, "watch-leave");
    const explore = role(element, "watch-explore");
    const code = role(element, "watch-code");
    let stage = null;
    let stream = null;

    function stop(words) {
      if (stream) stream.close();
      stream = null;
      leave.hidden = true;
      said(words);
    }

    function watch() {
      stop("");
      const name = code.value.trim().toLowerCase();
      if (!name) return said("Code: enter the code that you were given.");
      said("Connecting ...");
      const address = "kvw/watch/" + encodeURIComponent(name);
      stream = new EventSource(address);
      stream.onmessage = (event) => {
        if (!stage) {
          const send = () => {};
          send.owns = false;
          stage = new KVW.Stage(role(box, "stage"), send);
          KVW.watched = stage;
          stage.resync = () => watch(); // a message was lost: the stream begins anew, with a whole frame
        }
        if (box.hidden) said("Watching. What moves is the other person's run.");
        box.hidden = false;
        leave.hidden = false;
        stage.receive(event.data);
        const source = stage.frame && (stage.frame.sources || [])[0];
        explore.hidden = !source;
        if (source) explore.href = "?tab=explore&source=" + source;
      };
      stream.addEventListener("over", () => {
        stop("The run is not shared any more. Below is what it showed last.");
        if (stage) stage.ended();
      });
      stream.onerror = async () => {
        if (stream && stream.readyState === EventSource.CLOSED) {
          stop("");
          const answer = await fetch(address).catch(() => null);
          const body = answer && !answer.ok ? await answer.json().catch(() => null) : null;
          said(body ? body.error : "The connection was lost: press Watch to try again.");
        } else if (stream) said("The connection was lost; trying again ...");
      };
      return undefined;
    }

    role(element, "watch-form").addEventListener("submit", (event) => {
      event.preventDefault();
      watch();
    });
    leave.addEventListener("click", () => {
      stop("Not watching any more.");
      box.hidden = true;
    });
    const given = new URLSearchParams(location.search).get("code");
    if (given) {
      code.value = given;
      watch();
    }
  };
})(window.KVW);
