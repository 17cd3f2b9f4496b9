"use strict";
(() => {
  const tip = document.getElementById("tip");
  const svgns = "http://www.w3.org/2000/svg";
  const show = (v) => {
    if (v === 0) return "0";
    const a = Math.abs(v);
    return (a >= 1e6 || a < 1e-4 ? v.toExponential(2) : a >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(4))).replace("-", "−");
  };
  const nearest = (xs, x) => {
    let best = 0;
    for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - x) < Math.abs(xs[best] - x)) best = i;
    return best;
  };

  for (const chart of document.querySelectorAll("svg.chart[data-hover]")) {
    let data = null, layer = null;
    const hide = () => { tip.hidden = true; if (layer) layer.replaceChildren(); };
    const move = (event) => {
      if (!data) {
        data = JSON.parse(chart.dataset.hover);
        layer = document.createElementNS(svgns, "g");
        chart.append(layer);
      }
      const box = chart.getBoundingClientRect(), scale = chart.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      const [x0, x1, y0, y1] = data.d, [left, right, bottom, top] = data.p;
      const toX = (v) => left + (v - x0) / (x1 - x0) * (right - left);
      const toY = (v) => bottom + (v - y0) / (y1 - y0) * (top - bottom);
      const x = x0 + (px - left) / (right - left) * (x1 - x0);
      layer.replaceChildren(); tip.replaceChildren();
      const line = (text, colour) => {
        const row = document.createElement("div");
        if (colour !== undefined) { const dot = document.createElement("i"); dot.className = "c" + colour; row.append(dot); }
        row.append(text); tip.append(row);
      };
      const mark = (cx, cy, colour) => {
        const dot = document.createElementNS(svgns, "circle");
        dot.setAttribute("class", "dot ring c" + colour); dot.setAttribute("cx", cx); dot.setAttribute("cy", cy); dot.setAttribute("r", 4.5);
        layer.append(dot);
      };
      const value = (v) => data.pc ? show(100 * v) + " %" : show(v);
      if (data.k === "x") {
        const all = data.s.flatMap((s) => s.x);
        const at = all[nearest(all, x)];
        const cursor = document.createElementNS(svgns, "path");
        cursor.setAttribute("class", "cursor"); cursor.setAttribute("d", `M${toX(at)} ${bottom}V${top}`); layer.append(cursor);
        line(`${data.xl} ${show(at)}`);
        for (const s of data.s) { const i = nearest(s.x, at); mark(toX(s.x[i]), toY((s.at || s.y)[i]), s.c); line(`${s.n}: ${value(s.y[i])}`, s.c); }
      } else {
        let best = null, far = Infinity;
        for (const s of data.s) s.x.forEach((v, i) => { const d = Math.hypot(toX(v) - px, toY(s.y[i]) - py); if (d < far) { far = d; best = [s, i]; } });
        const [s, i] = best;
        mark(toX(s.x[i]), toY(s.y[i]), s.c);
        line(s.n, s.c); line(`(${value(s.x[i])}, ${value(s.y[i])})`); if (s.l) line(s.l[i]);
      }
      tip.hidden = false;
      const wide = tip.offsetWidth, page = document.documentElement.clientWidth;
      tip.style.left = Math.max(4, Math.min(event.pageX + 14, page - wide - 8)) + "px";
      tip.style.top = event.pageY + 16 + "px";
    };
    chart.addEventListener("pointermove", move);
    chart.addEventListener("pointerdown", move);
    chart.addEventListener("pointerleave", hide);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("thead th").forEach((head, column) => head.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => { const cell = row.cells[column]; return cell.dataset.value ?? cell.textContent.trim(); };
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [p, q] = [key(a), key(b)], [m, n] = [parseFloat(p), parseFloat(q)];
        return isNaN(m) || isNaN(n) ? p.localeCompare(q) : m - n;
      });
      table.tBodies[0].append(...(up ? rows : rows.reverse()));
    }));
  }

  for (const texts of document.querySelectorAll(".texts")) {
    const examples = [...texts.querySelectorAll(".example")], more = texts.querySelector(".more"), count = texts.querySelector(".count");
    const select = texts.querySelector("select"), buttons = [...texts.querySelectorAll("button[data-why]")];
    let why = "", all = false;
    const refresh = () => {
      const fit = examples.filter((e) => (!why || e.dataset.why === why) && (!select || !select.value || e.dataset.kind === select.value));
      const limit = all ? fit.length : +texts.dataset.first;
      // Unfiltered, show a few of each choice first, so that losses are seen as soon as gains.
      let shown = fit.slice(0, limit);
      if (!all && !why) {
        const groups = [...new Set(fit.map((e) => e.dataset.why))].map((w) => fit.filter((e) => e.dataset.why === w));
        shown = groups.flatMap((g) => g.slice(0, Math.max(1, Math.floor(limit / groups.length))));
      }
      examples.forEach((e) => { e.hidden = !shown.includes(e); });
      more.hidden = shown.length === fit.length; more.textContent = `Show all ${fit.length}`;
      count.textContent = `${shown.length} of ${fit.length}`;
    };
    buttons.forEach((b) => b.addEventListener("click", () => {
      why = b.dataset.why; all = false; buttons.forEach((o) => o.setAttribute("aria-pressed", o === b)); refresh();
    }));
    if (select) select.addEventListener("change", () => { all = false; refresh(); });
    more.addEventListener("click", () => { all = true; refresh(); });
    refresh();
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) links.forEach((a, id) => a.classList.toggle("here", id === entry.target.id));
    }, { rootMargin: "-20% 0px -70% 0px" });
    document.querySelectorAll("main > section").forEach((s) => seen.observe(s));
  }
})();
