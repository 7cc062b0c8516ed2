(function () {
  "use strict";
  var charts = JSON.parse(document.getElementById("chart-data").textContent);
  var root = document.documentElement;
  var wish = window.matchMedia("(prefers-color-scheme: dark)");
  var chosen = null;
  var printing = false;
  // Half of a sheet of A4 or Letter in CSS pixels, margins and padding taken off.
  var HALF_SHEET = 320, SHEET = 660;

  function colour(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

  function layoutOf(figure) {
    var layout = JSON.parse(JSON.stringify(figure.layout));
    var ink = colour("--ink"), rule = colour("--rule");
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { color: ink, size: 12, family: "system-ui, sans-serif" };
    layout.margin = { l: 58, r: 14, t: 8, b: layout.xaxis && layout.xaxis.title.text ? 44 : 28 };
    layout.height = layout.height || (printing ? 240 : 290);
    layout.legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" };
    layout.hovermode = layout.hovermode ? layout.hovermode : layout.showlegend ? "x unified" : "closest";
    layout.hoverlabel = { bgcolor: colour("--paper"), font: { color: ink } };
    ["xaxis", "yaxis"].forEach(function (axis) {
      layout[axis] = Object.assign({ gridcolor: rule, linecolor: rule, zerolinecolor: rule, exponentformat: "SI" }, layout[axis]);
    });
    return layout;
  }

  // The darkest of the colours would not stand out from a dark ground.
  function tracesOf(figure) {
    var text = JSON.stringify(figure.data);
    return JSON.parse(root.dataset.theme === "dark" ? text.replaceAll("#0072B2", "#3D9BE0") : text);
  }

  function draw() {
    Object.keys(charts).forEach(function (name) {
      var layout = layoutOf(charts[name]);
      if (printing) {
        // As in the style sheet: the last of an odd number has the whole width.
        var place = document.getElementById("chart-" + name).closest("figure");
        var alone = place.matches(":last-child:nth-child(odd)");
        layout.width = alone ? SHEET : HALF_SHEET;
      }
      Plotly.react("chart-" + name, tracesOf(charts[name]), layout,
        { responsive: true, displayModeBar: false });
    });
  }

  function theme(dark) { root.dataset.theme = dark ? "dark" : "light"; draw(); }

  document.getElementById("theme").addEventListener("click", function () {
    chosen = root.dataset.theme !== "dark";
    theme(chosen);
  });
  wish.addEventListener("change", function () { if (chosen === null) { theme(wish.matches); } });
  window.addEventListener("beforeprint", function () { printing = true; theme(false); });
  window.addEventListener("afterprint", function () {
    printing = false;
    theme(chosen === null ? wish.matches : chosen);
  });
  theme(wish.matches);
}());
