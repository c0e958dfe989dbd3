"use strict";
/* A questionnaire. Text comes in as textContent; what is kept is kept in this browser alone. */
(() => {
  const data = JSON.parse(document.getElementById("questionnaire").textContent);
  const find = (id) => document.getElementById(id);
  const study = find("study");
  const sends = study.dataset.sends === "true";
  const sections = ["start", "part", "ask", "end", "deleted"];
  const CODE = /^[A-Za-z0-9_-]{1,64}$/;
  const CHOICES = ["left", "right", "neither"];
  const key = `dreambench-study:${data.study}:${data.questionnaire}`;

  /* The questions, with a page of words before each part. */
  const steps = [];
  data.questions.forEach((question, place) => {
    if (!place || data.questions[place - 1].asks !== question.asks) steps.push({ part: question.asks });
    steps.push({ question, place });
  });
  const parts = steps.filter((step) => step.part);

  const makeCode = () => {
    const letters = "abcdefghjkmnpqrstuvwxyz23456789";
    return [...crypto.getRandomValues(new Uint8Array(12))].map((n) => letters[n % letters.length]).join("");
  };
  const named = new URLSearchParams(location.search).get("code");
  const fresh = () => ({ rater: named && CODE.test(named) ? named : makeCode(), at: -1, answers: {} });
  const isOurs = (kept) =>
    kept && typeof kept === "object" && CODE.test(kept.rater) && Number.isInteger(kept.at) &&
    kept.at >= -1 && kept.at <= steps.length && kept.answers && typeof kept.answers === "object" &&
    !(named && CODE.test(named) && kept.rater !== named);

  let state = fresh();
  let keeps = true;
  try {
    const kept = JSON.parse(localStorage.getItem(key));
    if (isOurs(kept)) {
      const known = data.questions.filter(({ id }) => CHOICES.includes(kept.answers[id]));
      state = { rater: kept.rater, at: kept.at, answers: Object.fromEntries(known.map(({ id }) => [id, kept.answers[id]])) };
    }
  } catch { /* What cannot be read is begun again. */ }
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify(state));
    } catch { keeps = false; }
    find("kept").textContent = state.at < 0 ? "" : keeps
      ? "Your answers are kept on this device." : "This browser keeps nothing: do not close the page before the end.";
  };

  const preload = (step) => {
    if (step?.question) for (const name of step.question.images) new Image().src = name;
  };
  const show = (image, name) => {
    image.classList.remove("small");
    image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
    image.src = name;
  };

  const open = (name, focused) => {
    for (const id of sections) find(id).hidden = id !== name;
    find("delete").hidden = name === "start" || name === "deleted";
    find("sure").hidden = true;
    if (focused) {
      scrollTo({ top: 0, behavior: "instant" });
      find(focused).focus({ preventScroll: true });
    }
  };

  const render = () => {
    for (const one of document.querySelectorAll(".code")) one.textContent = state.rater;
    const step = steps[state.at];
    if (state.at < 0) return open("start");
    if (!step) return open("end", "end-title");
    if (step.part) {
      const number = parts.indexOf(step) + 1;
      find("part-title").textContent = `Part ${number} of ${parts.length}: ${data.words[step.part].title}`;
      find("part-text").textContent = data.words[step.part].text;
      find("part-back").hidden = state.at === 0;
      open("part", "part-title");
    } else {
      renderQuestion(step);
      open("ask", "question");
    }
    preload(steps[state.at + 1]);
  };

  const renderQuestion = ({ question, place }) => {
    const total = data.questions.length;
    Object.assign(find("progress"), { max: total, value: place });
    find("count").textContent = `Question ${place + 1} of ${total}`;
    find("question").textContent = data.words[question.asks].question;
    find("text").hidden = question.asks !== "prompt";
    find("text").textContent = question.text ?? "";
    find("photos").hidden = question.asks !== "subject";
    const { make } = window.dreambench;
    find("photos").querySelector("ul").replaceChildren(...(question.photos ?? []).map((name, n) => {
      const image = make("img", { alt: `Photo ${n + 1} of the reference item` });
      show(image, name);
      const button = make("button", { type: "button" }, image);
      button.onclick = () => {
        show(find("photo"), name);
        find("photo").alt = image.alt;
        find("large").showModal();
      };
      return make("li", {}, button);
    }));
    show(find("left"), question.images[0]);
    show(find("right"), question.images[1]);
    for (const radio of find("form").elements.choice) radio.checked = state.answers[question.id] === radio.value;
  };

  const go = (by) => {
    state.at = Math.min(Math.max(state.at + by, 0), steps.length);
    keep();
    render();
  };
  const choose = (value) => {
    state.answers[steps[state.at].question.id] = value;
    keep();
  };

  const pack = () => JSON.stringify({
    format: 1, kind: "answers", study: data.study, questionnaire: data.questionnaire,
    rater: state.rater, simulated: false,
    answers: Object.fromEntries(data.questions.map(({ id }) => [id, state.answers[id]])),
  }, null, 2) + "\n";
  const say = (text) => { find("said").textContent = text; };
  const forget = () => {
    try { localStorage.removeItem(key); } catch { /* There is nothing. */ }
    find("kept").textContent = "";
  };

  find("close").onclick = () => find("large").close();
  find("large").onclick = (event) => {
    if (event.target === find("large")) find("large").close();
  };
  find("agree").onclick = () => go(1);
  find("continue").onclick = () => go(1);
  find("part-back").onclick = find("back").onclick = find("end-back").onclick = () => go(-1);
  find("form").onchange = (event) => choose(event.target.value);
  find("form").onsubmit = (event) => {
    event.preventDefault();
    go(1);
  };
  document.addEventListener("keydown", (event) => {
    if (find("ask").hidden || find("large").open || event.ctrlKey || event.altKey || event.metaKey) return;
    const radios = [...find("form").elements.choice];
    const radio = radios[["1", "2", "3"].indexOf(event.key)];
    if (radio) {
      radio.checked = true;
      radio.focus({ preventScroll: true });
      choose(radio.value);
    } else if (event.key === "Enter" && event.target === find("question")) {
      event.preventDefault();
      find("form").requestSubmit();
    }
  });

  find("save").onclick = () => {
    const address = URL.createObjectURL(new Blob([pack()], { type: "application/json" }));
    const number = String(data.questionnaire).padStart(3, "0");
    const link = Object.assign(document.createElement("a"), { href: address, download: `answers-${number}-${state.rater}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    say("Saved: the file is where your browser keeps downloads. Please give it to whoever asked you.");
  };
  find("send").onclick = async () => {
    find("send").disabled = true;
    say("Sending …");
    try {
      const answer = await fetch("/answers", { method: "POST", headers: { "Content-Type": "application/json" }, body: pack() });
      if (!answer.ok || !(await answer.json()).stored) throw new Error();
      find("send").hidden = find("end-back").hidden = find("save").hidden = true;
      find("another").hidden = false;
      find("delete").hidden = true;
      forget();
      say("Your answers have arrived. You can close this page.");
    } catch {
      find("send").disabled = false;
      find("save").hidden = false;
      say("They could not be sent. Try again, or save them as a file and give it to whoever asked you.");
    }
  };

  find("delete").onclick = () => {
    find("sure").hidden = false;
    find("keep").focus();
  };
  find("keep").onclick = () => {
    find("sure").hidden = true;
    find("delete").focus();
  };
  find("really").onclick = () => {
    forget();
    state = fresh();
    open("deleted", "deleted-title");
  };

  for (const one of document.querySelectorAll(".sends")) one.hidden = !sends;
  for (const one of document.querySelectorAll(".downloads")) one.hidden = sends;
  if (sends) find("another").hidden = true;
  keep();
  render();
})();
