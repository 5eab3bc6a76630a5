"""Study files that come with the package; `wazuka recipes list` names them."""
