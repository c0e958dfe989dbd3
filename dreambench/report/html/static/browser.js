"use strict";
/* The image browser: filters, sorts and shows what the page's data has; all text as textContent. */
(() => {
  const { make } = window.dreambench;
  const data = JSON.parse(document.getElementById("images-data").textContent);
  const { cells, metrics, methods, subjects, prompts, texts } = data;
  const THERE = 0, MISSING = 1, ELSEWHERE = 4, NOT_PLANNED = 5;
  const STATES = [
    "", "missing", "damaged: it cannot be read as an image", "changed since it was scored",
    "not in this folder", "not part of this run",
  ];
  const CHUNK = 120, SMALL = 100;

  const form = document.getElementById("image-tools");
  const list = document.getElementById("shots");
  const more = document.getElementById("more");
  const count = document.getElementById("image-count");
  const viewer = document.getElementById("viewer");
  const listed = metrics.filter((metric) => metric.listed);
  const families = [...new Set(prompts.map((prompt) => prompt.family))];

  /* As `format_number` of the report. */
  const format = (value) => {
    if (value === null || value === undefined) return "-";
    const text = value.toFixed(3);
    return Math.abs(value) < 1 ? text.replace("0.", ".") : text;
  };
  const scoreOf = (method, cell, metric) => {
    const values = methods[method].scores[metric];
    return values ? values[cell] : null;
  };
  const isMissing = (method, cell) => ![THERE, NOT_PLANNED].includes(methods[method].states[cell]);
  const explain = (method, cell) => {
    const { states, reasons } = methods[method];
    const state = states[cell];
    const reason = reasons[subjects[cells.subject[cell]].name] || reasons[""];
    return state === MISSING && reason ? reason : STATES[state];
  };
  const thumbnailPath = (name) => `thumbnails/${name}.webp`;
  const fullPath = (method, cell) => {
    const { folder, states } = methods[method];
    if (folder === null || states[cell] === MISSING || states[cell] === ELSEWHERE) return null;
    const parts = [subjects[cells.subject[cell]].name, prompts[cells.prompt[cell]].id];
    return `${folder}images/${parts.map(encodeURIComponent).join("/")}/${cells.k[cell]}.png`;
  };
  const nameCell = (cell) => `${subjects[cells.subject[cell]].name}: ${texts[cells.text[cell]]}`;
  const nameImage = (method, cell) =>
    `${methods[method].name}, ${nameCell(cell)}, image ${cells.k[cell] + 1}`;

  /* Pictures of few pixels are shown with their pixels. */
  const makeImage = (source, alt, properties = {}, isKept = true) => {
    const image = make("img", { alt, decoding: "async", ...properties });
    image.addEventListener("load", () => {
      if (Math.max(image.naturalWidth, image.naturalHeight) <= SMALL) image.classList.add("small");
    });
    if (isKept) image.src = source;
    else image.dataset.source = source;
    return image;
  };
  /* Pictures of the list are in memory near to what is looked at alone. */
  const keeper = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      for (const image of target.querySelectorAll("img")) {
        if (!isIntersecting) image.removeAttribute("src");
        else if (!image.hasAttribute("src")) image.src = image.dataset.source;
      }
    }
  }, { rootMargin: "1500px" });

  const fill = (name, options) =>
    form.elements[name].append(...options.map(([value, text]) => make("option", { value }, text)));
  fill("subject", subjects.map((subject, n) => [n, subject.name]));
  fill("family", families.map((family, n) => [n, family]));
  fill("prompt", prompts.map((prompt, n) => [n, prompt.id]));
  fill("method", methods.map((method, n) => [n, method.name]));
  fill("sort", metrics.map((metric, n) =>
    [n, `${metric.title} ${metric.up ? "↑" : "↓"}`]));

  /* What is shown: items are [method, cell], or cells alone where methods stand side by side. */
  let items = [], shown = 0, opened = -1;
  const FIELDS = ["subject", "family", "prompt", "method", "show", "sort", "order", "layout"];
  const chosen = (name) => form.elements[name].value;
  const isBeside = () => chosen("layout") === "beside";
  const sortMetric = () => (chosen("sort") === "" ? null : metrics[chosen("sort")]);

  const choose = () => {
    const [subject, family, prompt, method] = FIELDS.slice(0, 4).map(chosen);
    const kept = cells.k.map((_, cell) => cell).filter((cell) =>
      (subject === "" || cells.subject[cell] === Number(subject)) &&
      (prompt === "" || cells.prompt[cell] === Number(prompt)) &&
      (family === "" || prompts[cells.prompt[cell]].family === families[family]));
    const among = method === "" ? methods.map((_, n) => n) : [Number(method)];
    const isKept = chosen("show") === "missing" ? isMissing
      : (n, cell) => methods[n].states[cell] !== NOT_PLANNED;
    if (isBeside()) {
      items = kept.filter((cell) => among.some((n) => isKept(n, cell))).map((cell) => [among[0], cell]);
    } else {
      items = among.flatMap((n) => kept.filter((cell) => isKept(n, cell)).map((cell) => [n, cell]));
    }
    const metric = sortMetric();
    if (metric) {
      const sign = (chosen("order") === "best") === metric.up ? -1 : 1;
      const keyed = items.map((item) => [scoreOf(item[0], item[1], metric.name), item]);
      keyed.sort(([a], [b]) => {
        const [noA, noB] = [a === null || a === undefined, b === null || b === undefined];
        return noA || noB ? noA - noB : sign * (a - b);
      });
      items = keyed.map(([, item]) => item);
    }
    form.elements.order.disabled = !metric;
  };

  const makeScores = (method, cell) => {
    const metric = sortMetric();
    const names = metric && !metric.listed ? [metric, ...listed.slice(0, 3)] : listed.slice(0, 3);
    const all = metric && !names.includes(metric) ? [metric, ...names] : names;
    const line = make("span", { className: "scores" });
    for (const one of all) {
      line.append(make("span", { className: one === metric ? "by" : "" },
        `${one.title} ${format(scoreOf(method, cell, one.name))}`));
    }
    return line;
  };
  const makeShot = (method, cell, open, isKept = false) => {
    const name = methods[method].thumbnails[cell];
    if (name === null) return make("div", { className: "none" }, explain(method, cell));
    const shot = make("button", { type: "button", className: "shot" },
      makeImage(thumbnailPath(name), nameImage(method, cell), {}, isKept));
    shot.addEventListener("click", open);
    return shot;
  };
  const makeMark = (method, cell) => {
    const state = methods[method].states[cell];
    const isShown = state !== THERE && methods[method].thumbnails[cell] !== null;
    return isShown && state !== ELSEWHERE ? make("span", { className: "badge warn" }, STATES[state]) : "";
  };

  const makeCard = (position) => {
    const [method, cell] = items[position];
    return make("li", {}, makeShot(method, cell, () => openViewer(position)),
      make("p", { className: "about" }, make("b", {}, methods[method].name), " ",
        make("span", { className: "muted" }, `image ${cells.k[cell] + 1}`), makeMark(method, cell),
        make("span", { className: "prompt" }, nameCell(cell)), makeScores(method, cell)));
  };
  const makeRow = (position) => {
    const [, cell] = items[position];
    const strip = make("ul", { className: "strip" });
    const photo = subjects[cells.subject[cell]].photos[0];
    if (photo && photo.thumbnail) {
      strip.append(make("li", {}, makeImage(thumbnailPath(photo.thumbnail),
        `a photo of ${subjects[cells.subject[cell]].name}`, { className: "photo" }, false),
        make("p", { className: "about" }, make("b", {}, "a photo"))));
    }
    methods.forEach((one, method) => {
      strip.append(make("li", {}, makeShot(method, cell, () => openViewer(position, method)),
        make("p", { className: "about" }, make("b", {}, one.name), makeMark(method, cell),
          makeScores(method, cell))));
    });
    return make("li", {}, make("h2", {}, `${nameCell(cell)}, image ${cells.k[cell] + 1}`), strip);
  };

  const append = () => {
    const end = Math.min(shown + (isBeside() ? CHUNK / 3 : CHUNK), items.length);
    const part = document.createDocumentFragment();
    for (; shown < end; shown++) {
      const one = isBeside() ? makeRow(shown) : makeCard(shown);
      keeper.observe(one);
      part.append(one);
    }
    list.append(part);
  };
  const show = () => {
    choose();
    keeper.disconnect();
    list.replaceChildren();
    list.classList.toggle("beside", isBeside());
    shown = 0;
    const unit = isBeside() ? "cells" : chosen("show") === "missing" ? "missing images" : "images";
    const metric = sortMetric();
    const by = isBeside() && metric && items.length ? `, by ${metric.title} of ${methods[items[0][0]].name}` : "";
    count.textContent = `${items.length.toLocaleString("en")} ${unit}${by}`;
    append();
  };
  const watcher = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && shown < items.length) {
      append();
      /* It is told of changes alone: where it is still in sight, ask again. */
      watcher.unobserve(more);
      watcher.observe(more);
    }
  }, { rootMargin: "1200px" });

  /* What is chosen stands in the address, so that it can be sent to someone. */
  const readAddress = () => {
    const parts = new URLSearchParams(location.hash.split("&").slice(1).join("&"));
    for (const name of FIELDS) form.elements[name].value = parts.get(name) || "";
    for (const name of FIELDS) if (form.elements[name].selectedIndex < 0) form.elements[name].value = "";
  };
  const writeAddress = () => {
    const parts = new URLSearchParams(FIELDS.map((name) => [name, chosen(name)]).filter(([, v]) => v));
    history.replaceState(null, "", `#images${parts.size ? `&${parts}` : ""}`);
  };

  const makeFacts = (facts) => {
    const all = make("dl", { className: "facts" });
    for (const [term, value] of facts) all.append(make("dt", {}, term), make("dd", {}, value));
    return all;
  };
  const makePhotos = (method, cell) => {
    const { photos } = subjects[cells.subject[cell]];
    const nearest = methods[method].nearest[cell];
    const strip = make("ul", { className: "strip photos" });
    const order = photos.map((photo, n) => [photo, n]);
    order.sort(([, a], [, b]) => (b === nearest) - (a === nearest) || a - b);
    order.forEach(([photo, n]) => {
      const caption = make("p", { className: "about" }, n === nearest ? "nearest" : "");
      const image = photo.thumbnail ? makeImage(thumbnailPath(photo.thumbnail), `photo ${photo.name}`)
        : make("div", { className: "none" }, "no thumbnail");
      strip.append(make("li", { className: n === nearest ? "nearest" : "" }, image, caption));
    });
    const known = nearest === null ? "Photos of the subject" : "Photos of the subject, the nearest in DINO first";
    return [make("h3", {}, known), strip];
  };
  const makeScoreTable = (method, cell) => {
    const rows = metrics
      .map((metric) => [metric, scoreOf(method, cell, metric.name)])
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([metric, value]) => make("tr", {},
        make("th", { scope: "row" }, metric.title, " ",
          make("span", { className: "arrow" }, metric.up ? "↑" : "↓")),
        make("td", { className: "number" }, format(value))));
    if (!rows.length) return make("p", { className: "muted" }, "No scores.");
    return make("table", {}, make("caption", { className: "unseen" }, "Scores of this image"),
      make("thead", { className: "unseen" }, make("tr", {},
        make("th", { scope: "col" }, "metric"), make("th", { scope: "col" }, "score"))),
      make("tbody", {}, ...rows));
  };
  const makeLarge = (method, cell) => {
    const name = methods[method].thumbnails[cell], full = fullPath(method, cell);
    if (name === null && full === null) return make("div", { className: "none" }, explain(method, cell));
    const caption = make("figcaption", {}, methods[method].name);
    const image = makeImage(full || thumbnailPath(name), nameImage(method, cell),
      { className: "large" });
    if (full) {
      caption.append(" · ", make("a", { href: full, target: "_blank", rel: "noopener" }, "open the file"));
      image.addEventListener("error", () => {
        if (name !== null) image.src = thumbnailPath(name);
        caption.replaceChildren(methods[method].name, " · thumbnail: the file itself is not here");
      }, { once: true });
    } else {
      caption.append(" · thumbnail: the file itself is not beside this run");
    }
    return make("figure", {}, image, caption);
  };

  const openViewer = (position, method = items[position][0]) => {
    const cell = items[position][1];
    opened = position;
    document.getElementById("viewer-title").textContent = nameCell(cell);
    document.getElementById("viewer-previous").disabled = position === 0;
    document.getElementById("viewer-next").disabled = position === items.length - 1;
    const prompt = prompts[cells.prompt[cell]];
    const others = make("ul", { className: "strip" });
    methods.forEach((one, n) => {
      if (n === method || one.states[cell] === NOT_PLANNED) return;
      others.append(make("li", {}, makeShot(n, cell, () => openViewer(position, n), true),
        make("p", { className: "about" }, make("b", {}, one.name), makeScores(n, cell))));
    });
    const about = make("div", {}, makeFacts([
      ["Subject", `${subjects[cells.subject[cell]].name} (${subjects[cells.subject[cell]].noun})`],
      ["Prompt", `${prompt.id}, ${prompt.family}`],
      ["Image", `${cells.k[cell] + 1}, seed ${cells.seed[cell]}`],
    ]), ...makePhotos(method, cell), make("h3", {}, "Scores"), makeScoreTable(method, cell));
    const parts = [make("div", {}, makeLarge(method, cell), makeMark(method, cell)), about];
    if (others.children.length) {
      parts.push(make("div", { className: "whole" }, make("h3", {}, "The same cell of the other methods"), others));
    }
    viewer.querySelector(".viewer").replaceChildren(...parts);
    if (!viewer.open) viewer.showModal();
    viewer.scrollTop = 0;
    /* What had the focus may be gone, and keys would go to the page behind. */
    const focused = document.activeElement;
    if (!viewer.contains(focused) || focused.disabled) document.getElementById("viewer-title").focus();
  };
  const step = (by) => {
    const position = opened + by;
    if (viewer.open && position >= 0 && position < items.length) openViewer(position);
  };
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
  document.getElementById("viewer-previous").addEventListener("click", () => step(-1));
  document.getElementById("viewer-next").addEventListener("click", () => step(1));
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => { writeAddress(); show(); });
  form.addEventListener("reset", () => setTimeout(() => { writeAddress(); show(); }));
  /* Nothing is made before someone looks. */
  document.addEventListener("part", (event) => {
    if (event.detail !== "images") return;
    readAddress();
    show();
    watcher.observe(more);
  });
})();
