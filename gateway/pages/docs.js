/* global SwaggerUIBundle */
// Swagger UI has a dark scheme, by class; this is for it to follow the reader's.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#main",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // or it would ask a server elsewhere
});
